# The test bed's own programs: nothing here needs the server's headers.
#   make bed                   what ./lab uses beside the servers
#   make kafka-test            src/kafka against librdkafka's in-process cluster, with the sanitizers

BUILD ?= build
BED_CXX ?= g++
BED_FLAGS := -std=c++20 -g -Wall -Wextra -Werror -pthread -Isrc -MMD -MP
BED_SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
BED_KAFKA := $(wildcard src/kafka/*.cpp)

BED_OBJ := $(patsubst src/%.cpp,$(BUILD)/bed/%.o,$(BED_KAFKA))
BED_SAN_OBJ := $(patsubst src/%.cpp,$(BUILD)/bed-san/%.o,$(BED_KAFKA)) $(BUILD)/bed-san/test_kafka.o

.PHONY: bed kafka-test
bed: $(BUILD)/mockbroker $(BUILD)/kafkactl $(BUILD)/clockshift.so
kafka-test: $(BUILD)/kafka-test
	$(BUILD)/kafka-test --gtest_brief=1

$(BUILD)/mockbroker: $(BUILD)/bed/mockbroker.o
	$(BED_CXX) -pthread -o $@ $^ -lrdkafka
$(BUILD)/kafkactl: $(BUILD)/bed/kafkactl.o $(BED_OBJ)
	$(BED_CXX) -pthread -o $@ $^ -lrdkafka
$(BUILD)/clockshift.so: test/bed/clockshift.cpp
	@mkdir -p $(@D)
	$(BED_CXX) -std=c++20 -O2 -Wall -Wextra -Werror -fPIC -shared -fno-threadsafe-statics -o $@ $< -ldl
$(BUILD)/kafka-test: $(BED_SAN_OBJ)
	$(BED_CXX) $(BED_SANITIZE) -pthread -o $@ $^ -lgtest -lgtest_main -lrdkafka

$(BUILD)/bed/%.o: test/bed/%.cpp
	@mkdir -p $(@D)
	$(BED_CXX) $(BED_FLAGS) -O2 -c -o $@ $<
$(BUILD)/bed/%.o: src/%.cpp
	@mkdir -p $(@D)
	$(BED_CXX) $(BED_FLAGS) -O2 -c -o $@ $<
$(BUILD)/bed-san/%.o: test/bed/%.cpp
	@mkdir -p $(@D)
	$(BED_CXX) $(BED_FLAGS) $(BED_SANITIZE) -O1 -c -o $@ $<
$(BUILD)/bed-san/%.o: src/%.cpp
	@mkdir -p $(@D)
	$(BED_CXX) $(BED_FLAGS) $(BED_SANITIZE) -O1 -c -o $@ $<

-include $(wildcard $(BUILD)/bed/*.d $(BUILD)/bed/*/*.d $(BUILD)/bed-san/*.d $(BUILD)/bed-san/*/*.d)
