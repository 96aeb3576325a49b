"""Box metrics, the evaluation of a split and its report."""
