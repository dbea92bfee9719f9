"""What a fit goes on with where q is no good: dearer draws, from the last ones, judged alike."""
