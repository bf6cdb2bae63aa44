# mrsync: active-active replication between PostgreSQL databases.
#
#   make            build/mrsync.so            make unit sim kafka-test   tests that need no server
#   make install    into the server's folders  make installcheck          pg_regress, against a running server
#
# src/core and src/kafka are compiled without the server's include path: that is the proof that they do not need it.

BUILD ?= build
PG_CONFIG ?= pg_config

EXTENSION = mrsync
MODULE_big = mrsync
DATA = $(wildcard sql/mrsync--*.sql)
REGRESS = $(patsubst expected/%.out,%,$(wildcard expected/*.out))
REGRESS_OPTS = --inputdir=. --outputdir=$(BUILD)/regress

CORE_SRC = $(wildcard src/core/*.cpp)
KAFKA_SRC = $(wildcard src/kafka/*.cpp)
SERVER_SRC = $(wildcard src/init.cpp src/pg/*.cpp src/plugin/*.cpp src/worker/*.cpp src/api/*.cpp)
object = $(patsubst src/%.cpp,$(BUILD)/%.o,$(1))
OBJS = $(call object,$(CORE_SRC) $(KAFKA_SRC) $(SERVER_SRC))

SHLIB_LINK = -lrdkafka -lcrypto -lstdc++
EXTRA_CLEAN = $(BUILD)

# clang's bitcode rules know neither C++20 nor our flags; JIT inlining has nothing to gain here
override with_llvm = no
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

WARNINGS = -Wall -Wextra -Werror $(if $(MUTANTS),-DMRSYNC_MUTANTS)
PURE_CXXFLAGS = -std=c++20 -O2 -g -fPIC -fvisibility=hidden $(WARNINGS) -Isrc -MMD -MP
# the server's headers are not ours to warn about; they still say `register`
SERVER_CXXFLAGS = $(PURE_CXXFLAGS) -Wno-register -fno-strict-aliasing -fwrapv \
	-isystem $(shell $(PG_CONFIG) --includedir-server) $(filter -D%,$(CPPFLAGS))

$(BUILD)/core/%.o: src/core/%.cpp
	@mkdir -p $(@D)
	$(CXX) $(PURE_CXXFLAGS) -c $< -o $@

$(BUILD)/kafka/%.o: src/kafka/%.cpp
	@mkdir -p $(@D)
	$(CXX) $(PURE_CXXFLAGS) -c $< -o $@

$(BUILD)/%.o: src/%.cpp
	@mkdir -p $(@D)
	$(CXX) $(SERVER_CXXFLAGS) -c $< -o $@

# The library that can leave out a rule (src/core/mutant.h), in a folder of its own; for test/t/30_mutants.t
.PHONY: mutants
mutants:
	$(MAKE) MUTANTS=1 BUILD=$(BUILD)/mutants MODULE_big=$(BUILD)/mutants/mrsync $(BUILD)/mutants/mrsync.so

-include $(OBJS:.o=.d)
-include test/unit/unit.mk test/bed/bed.mk bench/bench.mk
