# Tests of src/core, and of the part of src/kafka that only reads: no server, no Kafka. Included by the top-level Makefile; works alone too (make -f test/unit/unit.mk).
#
#   make unit         GoogleTest under ASan and UBSan, a short simulation and some of the fold's seeds under them
#   make sim          the simulation, optimised, after a test of itself, and the proof of the fold: SIM_ARGS="--seconds 60", "--seeds 17 1", ...
#   make core-bench   what an event costs to write, read and name

BUILD ?= build

CORE_TEST_CXXFLAGS = -std=c++20 -g -Wall -Wextra -Werror -Isrc -Itest -MMD -MP
SANITIZE = -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
SIM_ARGS ?= --seconds 30
UNIT_SIM_ARGS ?= --seeds 1 60

core_objects = $(patsubst %.cpp,$(BUILD)/$(1)/%.o,$(wildcard src/core/*.cpp) $(wildcard $(2)))
UNIT_OBJS = $(call core_objects,sanitized,test/unit/*_test.cpp) $(BUILD)/sanitized/src/kafka/options.o
SIM_OBJS = $(call core_objects,optimised,test/sim/*.cpp)
SIM_SANITIZED_OBJS = $(call core_objects,sanitized,test/sim/*.cpp)
CORE_BENCH_OBJS = $(call core_objects,optimised,test/unit/core_bench.cpp)

.PHONY: unit sim core-bench

unit: $(BUILD)/unit_tests $(BUILD)/sim_sanitized
	$(BUILD)/unit_tests --gtest_brief=1
	$(BUILD)/sim_sanitized $(UNIT_SIM_ARGS)
	$(BUILD)/sim_sanitized --prove $(UNIT_SIM_ARGS)

sim: $(BUILD)/sim_optimised
	$(BUILD)/sim_optimised --self-test
	$(BUILD)/sim_optimised --prove
	$(BUILD)/sim_optimised $(SIM_ARGS)

core-bench: $(BUILD)/core_bench
	$(BUILD)/core_bench

$(BUILD)/unit_tests: $(UNIT_OBJS)
	$(CXX) $(SANITIZE) $^ -lgtest -lgtest_main -ljansson -lcrypto -lrdkafka -pthread -o $@

$(BUILD)/sim_sanitized: $(SIM_SANITIZED_OBJS)
	$(CXX) $(SANITIZE) $^ -lcrypto -o $@

$(BUILD)/sim_optimised: $(SIM_OBJS)
	$(CXX) $^ -lcrypto -o $@

$(BUILD)/core_bench: $(CORE_BENCH_OBJS)
	$(CXX) $^ -lcrypto -o $@

$(BUILD)/sanitized/%.o: %.cpp
	@mkdir -p $(@D)
	$(CXX) $(CORE_TEST_CXXFLAGS) $(SANITIZE) -c $< -o $@

$(BUILD)/optimised/%.o: %.cpp
	@mkdir -p $(@D)
	$(CXX) $(CORE_TEST_CXXFLAGS) -O2 -c $< -o $@

-include $(UNIT_OBJS:.o=.d) $(SIM_OBJS:.o=.d) $(SIM_SANITIZED_OBJS:.o=.d) $(CORE_BENCH_OBJS:.o=.d)
