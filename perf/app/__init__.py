"""What a user can ask for: each room here connects measuring, judging and reporting."""
