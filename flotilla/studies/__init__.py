"""Many runs: a grid of settings (`flotilla sweep`), and runs held against each other (`flotilla compare`)."""
