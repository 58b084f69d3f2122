"""What `_agent` gives to the rest of the package: functions of C."""
