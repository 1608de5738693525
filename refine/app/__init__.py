"""What the user meets: the configuration, the commands and the reports."""
