# The bench's own program: build/bench-probe, a libpq client. bench/run builds and uses it.

BENCH_CXX ?= g++

.PHONY: bench-probe
bench-probe: $(BUILD)/bench-probe

$(BUILD)/bench-probe: bench/probe.cpp
	@mkdir -p $(@D)
	$(BENCH_CXX) -std=c++20 -O2 -g -Wall -Wextra -Werror -pthread -I$(shell $(PG_CONFIG) --includedir) -o $@ $< \
		-L$(shell $(PG_CONFIG) --libdir) -lpq
