"""The benchmarks that need no mirror, as `make bench` runs them."""

import sys

from benchmarks import accuracy, memory, overhead, serving

accuracy.main(sys.argv[1:])
overhead.main()
memory.main([])
serving.main([])
