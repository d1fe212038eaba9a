"""Speed and scale, each module prints or writes JSON; results, machines named, in docs/results/."""
