"""What stands in the way of firewall rules on this host: each module looks for one kind of finding."""
