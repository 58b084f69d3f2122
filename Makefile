# The commands of this checkout, for those who type make.
.PHONY: help demo test stress hour clean
help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)
demo: ## show the library at work on real traffic
	@scripts/demo
test: ## run the test suite
	@scripts/test
stress: ## the tests of many writers, killed writers and threads, fifty times as long
	@IPTC_STRESS=50 scripts/test tests/test_writers.py -s
hour: ## an hour in which everything changes while eBPF reads the counters, on both back ends; IPTC_MINUTES=5 for less
	@IPTC_MINUTES=$${IPTC_MINUTES:-60} scripts/test tests/test_bpf_hour.py -n 4 --dist load -rP
clean: ## remove what was built
	rm -rf .venv build dist *.egg-info
	find iptc -name '*.so' -delete
