"""What a browser shows: pages and the components they are made of."""
