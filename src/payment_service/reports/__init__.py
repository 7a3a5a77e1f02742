"""Reports: payments and refunds that clients made themselves, told afterwards."""
