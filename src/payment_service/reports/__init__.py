"""Reports: payments and refunds that clients made themselves and reported afterwards."""
