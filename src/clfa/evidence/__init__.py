"""What a result is worth: evaluation, floors, paired comparisons, audits, probes, slices. It trains nothing but floors."""
