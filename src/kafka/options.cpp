#include "kafka/options.h"

#include <librdkafka/rdkafka.h>

#include <algorithm>
#include <memory>

namespace mrsync::kafka
{

namespace
{

constexpr std::string_view kSpaces = " \t\r\n\f\v";
constexpr std::string_view kFamilies[] = {"security.", "ssl.", "sasl."};
constexpr std::string_view kSingles[] = {"client.rack", "broker.address.family"};

struct Denied
{
	std::string_view prefix;
	const char *why;
};
constexpr Denied kDenied[] = {
	{"ssl.engine.", "it would load code into the server"},
	{"ssl.providers", "it would load code into the server"},
	{"sasl.kerberos.kinit.cmd", "it would run a command in the server"},
	{"sasl.oauthbearer.", "mrsync has no source of tokens for OAUTHBEARER"},
};

constexpr std::string_view kMechanisms[] = {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI"};
constexpr const char *kAllowedHint = "Allowed are librdkafka's options that begin with security., ssl. or sasl., and client.rack and "
									 "broker.address.family.";
constexpr const char *kFormHint = "Write key=value key2='a value with spaces'; within a value, \\' is a quote and \\\\ a backslash.";

std::string quoted(std::string_view key) { return "\"" + std::string(key) + "\""; }

std::string lower(std::string text)
{
	for (char &c : text)
		c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
	return text;
}

std::string canonical(std::string_view key)
{
	return key == "sasl.mechanisms" ? "sasl.mechanism" : secretInFile(key).value_or(std::string(key));
}

const Option *find(const Options &options, std::string_view key)
{
	for (const Option &option : options)
		if (canonical(option.key) == key)
			return &option;
	return nullptr;
}

bool isAllowed(std::string_view key)
{
	return std::any_of(std::begin(kFamilies), std::end(kFamilies), [&](auto family) { return key.starts_with(family); }) ||
		   std::find(std::begin(kSingles), std::end(kSingles), key) != std::end(kSingles);
}

// The text into pairs.
class Reader
{
public:
	explicit Reader(std::string_view text) : text_(text) {}

	std::optional<OptionsError> read(Options &options)
	{
		for (skipSpaces(); at_ < text_.size(); skipSpaces())
		{
			size_t end = text_.find_first_of(std::string(kSpaces) + "='\\", at_);
			std::string key(text_.substr(at_, end == std::string_view::npos ? end : end - at_));
			at_ += key.size();
			skipSpaces();
			if (key.empty() || at_ == text_.size() || text_[at_] != '=')
				return OptionsError{"What stands " +
										(options.empty() ? "at the beginning" : "after the value of " + name(options, options.size() - 1)) +
										" is no key=value.",
									kFormHint};
			++at_;
			skipSpaces();
			options.push_back({std::move(key), ""});
			if (!value(options.back().value))
				return OptionsError{"The value of " + name(options, options.size() - 1) + " does not end: a quote is missing.", kFormHint};
		}
		return std::nullopt;
	}

	// How an error may call the option: by its key when that is one, else by its place, for it may be the rest of a value.
	static std::string name(const Options &options, size_t index)
	{
		const std::string &key = options[index].key;
		bool harmless = isAllowed(key);
		if (!harmless)
		{
			std::unique_ptr<rd_kafka_conf_t, decltype(&rd_kafka_conf_destroy)> conf(rd_kafka_conf_new(), rd_kafka_conf_destroy);
			char reason[512];
			harmless = rd_kafka_conf_set(conf.get(), key.c_str(), "", reason, sizeof reason) != RD_KAFKA_CONF_UNKNOWN;
		}
		if (harmless)
			return quoted(key);
		return index == 0 ? "the first option" : "the option after " + name(options, index - 1);
	}

private:
	void skipSpaces() { at_ = std::min(text_.find_first_not_of(kSpaces, at_), text_.size()); }

	// As libpq reads it. False: a quoted one does not end.
	bool value(std::string &to)
	{
		const bool inQuotes = at_ < text_.size() && text_[at_] == '\'';
		for (at_ += inQuotes; at_ < text_.size(); ++at_)
		{
			if (inQuotes ? text_[at_] == '\'' : kSpaces.find(text_[at_]) != kSpaces.npos)
			{
				at_ += inQuotes;
				return true;
			}
			if (text_[at_] == '\\' && at_ + 1 < text_.size())
				++at_;
			to += text_[at_];
		}
		return !inQuotes;
	}

	std::string_view text_;
	size_t at_ = 0;
};

std::string upperFirst(std::string text)
{
	if (!text.empty() && text[0] >= 'a' && text[0] <= 'z')
		text[0] = static_cast<char>(text[0] - 'a' + 'A');
	return text;
}

std::optional<OptionsError> checkKeys(const Options &options)
{
	for (size_t i = 0; i < options.size(); ++i)
	{
		const std::string &key = options[i].key;
		if (!isAllowed(key))
			return OptionsError{upperFirst(Reader::name(options, i)) + " cannot be set here.", kAllowedHint};
		for (const Denied &denied : kDenied)
			if (key.starts_with(denied.prefix))
				return OptionsError{quoted(key) + " cannot be set here: " + denied.why + ".", ""};
		for (size_t j = 0; j < i; ++j)
			if (canonical(options[j].key) == canonical(key))
				return OptionsError{options[j].key == key ? quoted(key) + " is given twice."
															  : quoted(options[j].key) + " and " + quoted(key) + " are the same option.",
									""};
	}
	return std::nullopt;
}

// What librdkafka itself says of each.
std::optional<OptionsError> checkValues(const Options &options)
{
	std::unique_ptr<rd_kafka_conf_t, decltype(&rd_kafka_conf_destroy)> conf(rd_kafka_conf_new(), rd_kafka_conf_destroy);
	for (const Option &option : options)
	{
		char reason[512] = "";
		if (rd_kafka_conf_set(conf.get(), secretInFile(option.key).value_or(option.key).c_str(), option.value.c_str(), reason, sizeof reason) == RD_KAFKA_CONF_OK)
			continue;
		const std::string &key = option.key;
		bool secret = key.find("password") != key.npos || key.ends_with(".pem") || key.ends_with("username");
		return OptionsError{"Option " + quoted(key) + ": " + (secret ? "its value is not valid" : reason) + ".", ""};
	}
	return std::nullopt;
}

// What only shows in the whole. librdkafka would say most of it when a client is made, or nothing at all.
std::optional<OptionsError> checkWhole(const Options &options)
{
	const Option *given = find(options, "security.protocol");
	const std::string protocol = given ? lower(given->value) : "plaintext";
	const bool encrypts = protocol == "ssl" || protocol == "sasl_ssl";
	const bool logsIn = protocol.starts_with("sasl_");
	const char *which = given ? "" : ", which is not given";
	for (const Option &option : options)
	{
		if (option.key.starts_with("ssl.") && !encrypts)
			return OptionsError{quoted(option.key) + " has no effect without security.protocol=ssl or sasl_ssl" + which + ".",
								"Add security.protocol=ssl, or sasl_ssl when the brokers also want a login."};
		if (option.key.starts_with("sasl.") && !logsIn)
			return OptionsError{quoted(option.key) + " has no effect without security.protocol=sasl_ssl or sasl_plaintext" + which + ".",
								"Add security.protocol=sasl_ssl."};
		// both end in the command line of kinit
		if (option.key == "sasl.kerberos.principal" || option.key == "sasl.kerberos.keytab")
			for (char c : option.value)
				if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || std::string_view("_./@:-").find(c) != std::string_view::npos))
					return OptionsError{"The value of " + quoted(option.key) + " may have letters, digits and _./@:- only.", ""};
	}
	if (!logsIn)
		return std::nullopt;
	const Option *mechanism = find(options, "sasl.mechanism");
	if (!mechanism || std::find(std::begin(kMechanisms), std::end(kMechanisms), mechanism->value) == std::end(kMechanisms))
		return OptionsError{mechanism ? "The value of " + quoted(mechanism->key) + " is no mechanism that can be used here."
									  : "security.protocol=" + protocol + " needs \"sasl.mechanism\".",
							"It is one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 and GSSAPI."};
	if (mechanism->value == "GSSAPI")
		return std::nullopt;
	for (const char *key : {"sasl.username", "sasl.password"})
		if (const Option *option = find(options, key); !option || option->value.empty())
			return OptionsError{"The login needs " + quoted(key) + ", which is " + (option ? "empty" : "not given") + ".", ""};
	return std::nullopt;
}

} // namespace

std::optional<std::string> secretInFile(std::string_view key)
{
	constexpr std::string_view suffix = ".file";
	for (std::string_view secret : {"sasl.password", "ssl.key.password", "ssl.keystore.password"})
		if (key.starts_with(secret) && key.substr(secret.size()) == suffix)
			return std::string(secret);
	return std::nullopt;
}

std::variant<Options, OptionsError> parseOptions(std::string_view text)
{
	Options options;
	std::optional<OptionsError> error = Reader(text).read(options);
	for (auto check : {checkKeys, checkValues, checkWhole})
		if (!error)
			error = check(options);
	if (error)
		return *std::move(error);
	return options;
}

} // namespace mrsync::kafka
