"""Results as pages, cards, tables and figures. It computes nothing."""
