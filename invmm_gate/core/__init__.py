"""What every part of the gate shares: records, errors, settings, intervals, and the seams between the parts."""
