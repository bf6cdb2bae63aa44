// What a user may say about how Kafka is spoken to: encryption, login, address family. The text is that of
// mrsync.kafka_options, written like a libpq connection string: key=value key2='a value with spaces'.
//
// Invariants, and what breaks without them:
// - whatever is not understood, not allowed or without effect is an error: a security option that is passed over is a
//   connection in the clear;
// - only options of the connection: another one could undo what producer and consumer promise, or load code;
// - an error holds no value, nor what may be the rest of one (a password whose quotes were forgotten): it is logged;
// - no client and no thread is made: the postmaster calls this.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace mrsync::kafka
{

struct Option
{
	std::string key;
	std::string value;

	bool operator==(const Option &) const = default;
};
using Options = std::vector<Option>;

struct OptionsError
{
	std::string detail; // what is wrong, with the option's key and librdkafka's reason
	std::string hint;
};

// "sasl.password" for "sasl.password.file", our addition to librdkafka's keys: the secret is the first line of a file, so that
// it stands neither in a configuration file nor in the log, where PostgreSQL writes what a reload changes.
std::optional<std::string> secretInFile(std::string_view key);

// Total. The files that options name are not looked at: they are read whenever a client is made.
std::variant<Options, OptionsError> parseOptions(std::string_view text);

} // namespace mrsync::kafka
