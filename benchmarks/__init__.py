"""What bwcache costs and gains, measured. Each script prints JSON with the machine in it."""
