"""What a user can ask for: each module here connects measuring, judging and reporting."""
