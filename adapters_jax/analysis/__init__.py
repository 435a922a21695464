"""What is read off finished runs: tables and figures."""
