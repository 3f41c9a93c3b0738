def run_checks(world): return 0
