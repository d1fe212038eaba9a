"""Speed and scale, each module prints JSON; results with the machine named are in docs/results/."""
