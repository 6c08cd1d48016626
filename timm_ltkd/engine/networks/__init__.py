"""Networks: made, loaded safely, and checked to belong to the data."""
