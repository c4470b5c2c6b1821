"""The training kernel and the step loop: everything that runs when a model is trained."""
