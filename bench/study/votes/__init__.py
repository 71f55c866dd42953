"""Analysis of the votes: frames of votes in, shares, intervals and rankings out."""
