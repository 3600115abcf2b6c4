"""Many runs as processes: what is swept, their configs, their folder, their table and plot."""
