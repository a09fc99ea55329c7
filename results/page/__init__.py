"""The report as one HTML file that needs nothing else: tables to sort and filter, charts, mistakes with pictures."""
