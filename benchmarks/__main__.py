"""Both benchmarks, as `make bench` runs them."""

import sys

from benchmarks import accuracy, overhead

accuracy.main(sys.argv[1:])
overhead.main()
