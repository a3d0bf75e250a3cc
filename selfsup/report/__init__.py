"""One page that tells how good a run is: what is shown is collected, then judged in words, drawn, and written."""
