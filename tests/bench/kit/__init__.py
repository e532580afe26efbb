"""What every benchmark program needs: a broker of its own, its CPU, percentiles, a report and plots."""
