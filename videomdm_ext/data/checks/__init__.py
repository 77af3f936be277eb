"""Whether a data set is what its card says: the rules of a clip, and the look at the whole set."""
