"""The benchmark: the whole path on real servers, beside a bare-loop ceiling measured in the same run."""
