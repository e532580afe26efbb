"""Work orders over HTTP: order, find, take, report, call off."""
