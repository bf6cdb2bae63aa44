// mrsync.kafka_options: read as libpq reads a connection string; what is not understood, not allowed or without effect is
// refused, and no value shows in what is said of it.
#include "kafka/options.h"

#include "unit/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

namespace mrsync::kafka
{
namespace
{

Options optionsOf(std::string_view text)
{
	auto parsed = parseOptions(text);
	if (auto *error = std::get_if<OptionsError>(&parsed))
	{
		ADD_FAILURE() << text << ": " << error->detail;
		return {};
	}
	return std::get<Options>(parsed);
}

OptionsError errorOf(std::string_view text)
{
	auto parsed = parseOptions(text);
	if (std::holds_alternative<Options>(parsed))
	{
		ADD_FAILURE() << text << " was taken";
		return {};
	}
	return std::get<OptionsError>(parsed);
}
std::string detailOf(std::string_view text) { return errorOf(text).detail; }

TEST(KafkaOptionsTest, NothingIsNoOption)
{
	EXPECT_EQ(optionsOf(""), Options{});
	EXPECT_EQ(optionsOf(" \n\t"), Options{});
}

TEST(KafkaOptionsTest, ReadsTheUsualForms)
{
	EXPECT_EQ(optionsOf("security.protocol=ssl"), (Options{{"security.protocol", "ssl"}}));
	EXPECT_EQ(optionsOf("security.protocol=SASL_SSL ssl.ca.location=/etc/kafka/ca.pem\nsasl.mechanism=SCRAM-SHA-512 "
						"sasl.username=mrsync sasl.password=secret"),
			  (Options{{"security.protocol", "SASL_SSL"}, {"ssl.ca.location", "/etc/kafka/ca.pem"}, {"sasl.mechanism", "SCRAM-SHA-512"},
					   {"sasl.username", "mrsync"}, {"sasl.password", "secret"}}));
	EXPECT_EQ(optionsOf("client.rack=a broker.address.family=v4"), (Options{{"client.rack", "a"}, {"broker.address.family", "v4"}}));
}

TEST(KafkaOptionsTest, QuotesLikeLibpq)
{
	auto rack = [](std::string_view text) { return optionsOf("client.rack" + std::string(text)).at(0).value; };
	EXPECT_EQ(rack("=a,b;c=d\"e"), "a,b;c=d\"e");
	EXPECT_EQ(rack(" = 'a b'"), "a b");
	EXPECT_EQ(rack("='a\nb'  "), "a\nb");
	EXPECT_EQ(rack("=''"), "");
	EXPECT_EQ(rack("="), "");
	EXPECT_EQ(rack("='it\\'s'"), "it's");
	EXPECT_EQ(rack("=it\\'s"), "it's");
	EXPECT_EQ(rack("=it's"), "it's");
	EXPECT_EQ(rack("='a\\\\b'"), "a\\b");
	EXPECT_EQ(rack("=a\\ b"), "a b");
	EXPECT_EQ(rack("=a\\"), "a\\");
	EXPECT_EQ(rack("=ü"), "ü");
	// the next key may follow a quote at once
	EXPECT_EQ(optionsOf("client.rack='a'broker.address.family=v4").size(), 2u);
}

TEST(KafkaOptionsTest, SaysWhereTheFormIsWrong)
{
	EXPECT_EQ(detailOf("security.protocol"), "What stands at the beginning is no key=value.");
	EXPECT_EQ(detailOf("=ssl"), "What stands at the beginning is no key=value.");
	EXPECT_EQ(detailOf("'security.protocol'=ssl"), "What stands at the beginning is no key=value.");
	EXPECT_EQ(detailOf("client.rack='a"), "The value of \"client.rack\" does not end: a quote is missing.");
	EXPECT_EQ(detailOf("client.rack='a\\'"), "The value of \"client.rack\" does not end: a quote is missing.");
	EXPECT_EQ(detailOf("client.rack='"), "The value of \"client.rack\" does not end: a quote is missing.");
	EXPECT_NE(errorOf("client.rack='a").hint.find("key2='a value with spaces'"), std::string::npos);
	EXPECT_EQ(detailOf("client.rack=a broker.address.family"), "What stands after the value of \"client.rack\" is no key=value.");
}

TEST(KafkaOptionsTest, RefusesWhatIsNotOfTheConnection)
{
	EXPECT_EQ(detailOf("acks=0"), "\"acks\" cannot be set here.");
	EXPECT_EQ(detailOf("bootstrap.servers=b:9092"), "\"bootstrap.servers\" cannot be set here.");
	EXPECT_EQ(detailOf("enable.idempotence=false"), "\"enable.idempotence\" cannot be set here.");
	EXPECT_EQ(detailOf("debug=all"), "\"debug\" cannot be set here.");
	EXPECT_EQ(detailOf("enable.ssl.certificate.verification=false"), "\"enable.ssl.certificate.verification\" cannot be set here.");
	EXPECT_NE(errorOf("acks=0").hint.find("security., ssl. or sasl."), std::string::npos);
	// code and commands
	EXPECT_EQ(detailOf("plugin.library.paths=evil"), "\"plugin.library.paths\" cannot be set here.");
	EXPECT_EQ(detailOf("ssl.engine.location=/tmp/evil.so"), "\"ssl.engine.location\" cannot be set here: it would load code into the server.");
	EXPECT_EQ(detailOf("ssl.engine.id=evil"), "\"ssl.engine.id\" cannot be set here: it would load code into the server.");
	EXPECT_EQ(detailOf("ssl.providers=/tmp/evil"), "\"ssl.providers\" cannot be set here: it would load code into the server.");
	EXPECT_EQ(detailOf("sasl.kerberos.kinit.cmd=evil"), "\"sasl.kerberos.kinit.cmd\" cannot be set here: it would run a command in the server.");
	// what needs a callback
	EXPECT_EQ(detailOf("sasl.oauthbearer.method=oidc"), "\"sasl.oauthbearer.method\" cannot be set here: mrsync has no source of tokens for OAUTHBEARER.");
	EXPECT_EQ(detailOf("security.protocol=sasl_ssl sasl.mechanism=OAUTHBEARER"), "The value of \"sasl.mechanism\" is no mechanism that can be used here.");
	EXPECT_EQ(detailOf("security.protocol=ssl ssl.certificate.verify_cb=1"), "Option \"ssl.certificate.verify_cb\": Property \"ssl.certificate.verify_cb\" must be set through dedicated .._set_..() function.");
	// into the command line of kinit
	std::string gssapi = "security.protocol=sasl_ssl sasl.mechanism=GSSAPI ";
	EXPECT_EQ(optionsOf(gssapi + "sasl.kerberos.principal=mrsync/db1.example.com@EXAMPLE.COM sasl.kerberos.keytab=/etc/mrsync.keytab").size(), 4u);
	for (const char *value : {"'a;id'", "$(id)", "`id`", "'a b'", "a\\\\b", "'\"a'", "a|id", "a&", "%{ssl.key.password}", "'a\nid'", "ä"})
		for (const char *key : {"sasl.kerberos.principal", "sasl.kerberos.keytab"})
			EXPECT_EQ(detailOf(gssapi + key + "=" + value), "The value of \"" + std::string(key) + "\" may have letters, digits and _./@:- only.");
}

TEST(KafkaOptionsTest, PassesOnWhatLibrdkafkaSays)
{
	EXPECT_EQ(detailOf("security.protocol=tls"), "Option \"security.protocol\": Invalid value \"tls\" for configuration property \"security.protocol\".");
	EXPECT_EQ(detailOf("security.protocl=ssl"), "Option \"security.protocl\": No such configuration property: \"security.protocl\".");
	EXPECT_EQ(detailOf("broker.address.family=v5"), "Option \"broker.address.family\": Invalid value \"v5\" for configuration property \"broker.address.family\".");
}

// Each of these would leave a connection without what the option was to bring.
TEST(KafkaOptionsTest, RefusesWhatHasNoEffect)
{
	EXPECT_EQ(detailOf("ssl.ca.location=/ca.pem"), "\"ssl.ca.location\" has no effect without security.protocol=ssl or sasl_ssl, which is not given.");
	EXPECT_EQ(detailOf("security.protocol=plaintext ssl.ca.location=/ca.pem"), "\"ssl.ca.location\" has no effect without security.protocol=ssl or sasl_ssl.");
	EXPECT_EQ(detailOf("sasl.username=u"), "\"sasl.username\" has no effect without security.protocol=sasl_ssl or sasl_plaintext, which is not given.");
	EXPECT_EQ(detailOf("security.protocol=ssl sasl.username=u"), "\"sasl.username\" has no effect without security.protocol=sasl_ssl or sasl_plaintext.");
	EXPECT_EQ(detailOf("security.protocol=ssl security.protocol=plaintext"), "\"security.protocol\" is given twice.");
	EXPECT_EQ(detailOf("security.protocol=sasl_ssl sasl.mechanism=PLAIN sasl.mechanisms=PLAIN"), "\"sasl.mechanism\" and \"sasl.mechanisms\" are the same option.");
	EXPECT_EQ(detailOf("security.protocol=sasl_ssl sasl.password=x sasl.password.file=/x"), "\"sasl.password\" and \"sasl.password.file\" are the same option.");
}

TEST(KafkaOptionsTest, ALoginIsWhole)
{
	EXPECT_EQ(detailOf("security.protocol=sasl_ssl"), "security.protocol=sasl_ssl needs \"sasl.mechanism\".");
	EXPECT_EQ(detailOf("security.protocol=sasl_ssl sasl.mechanism=plain"), "The value of \"sasl.mechanism\" is no mechanism that can be used here.");
	for (std::string mechanism : {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"})
	{
		std::string begin = "security.protocol=sasl_plaintext sasl.mechanism=" + mechanism;
		EXPECT_EQ(detailOf(begin), "The login needs \"sasl.username\", which is not given.");
		EXPECT_EQ(detailOf(begin + " sasl.username=u"), "The login needs \"sasl.password\", which is not given.");
		EXPECT_EQ(detailOf(begin + " sasl.username=u sasl.password=''"), "The login needs \"sasl.password\", which is empty.");
		EXPECT_EQ(optionsOf(begin + " sasl.username=u sasl.password=p").size(), 4u);
		EXPECT_EQ(optionsOf(begin + " sasl.username=u sasl.password.file=/no/such/file").size(), 4u); // looked at later
	}
}

TEST(KafkaOptionsTest, SecretsMayBeInFiles)
{
	EXPECT_EQ(secretInFile("sasl.password.file"), "sasl.password");
	EXPECT_EQ(secretInFile("ssl.key.password.file"), "ssl.key.password");
	EXPECT_EQ(secretInFile("ssl.keystore.password.file"), "ssl.keystore.password");
	for (const char *key : {"sasl.password", "sasl.password.files", "sasl.username.file", ".file", "", "xsasl.password.file"})
		EXPECT_FALSE(secretInFile(key)) << key;
	EXPECT_EQ(detailOf("security.protocol=ssl ssl.ca.location.file=/x"), "Option \"ssl.ca.location.file\": No such configuration property: \"ssl.ca.location.file\".");
}

// The value stands in the message of no error, also not the part of it that was taken for the next option.
TEST(KafkaOptionsTest, TellsNoSecret)
{
	const std::string begin = "security.protocol=sasl_ssl sasl.mechanism=PLAIN sasl.username=u sasl.password=";
	for (std::string end : {"'hunter2", "x hunter2", "x hunter2 ", "x hunter2=", "x hunter2=y", "x hunter2=y z", "x hunter2=y hunter2", "x hunter2='y", "x =hunter2", "x'hunter2", "x y=hunter2 z='",
							"hunter2 sasl.mechanism=PLAIN", "hunter2 acks=1", "hunter2 ssl.engine.location=hunter2", "hunter2 sasl.password=hunter2",
							"hunter2 security.x=hunter2", "x 'hunter2'=y", "x hunter2\\ =y", "x a.hunter2=b c.hunter2=d"})
	{
		auto parsed = parseOptions(begin + end);
		if (end == "x'hunter2") // a password with a quote in it
		{
			EXPECT_TRUE(std::holds_alternative<Options>(parsed));
			continue;
		}
		ASSERT_TRUE(std::holds_alternative<OptionsError>(parsed)) << end;
		const auto &error = std::get<OptionsError>(parsed);
		EXPECT_EQ((error.detail + error.hint).find("hunter2"), std::string::npos) << end << ": " << error.detail;
	}
	EXPECT_EQ(detailOf(begin + "my secret=1 x=2"), "The option after \"sasl.password\" cannot be set here.");
	EXPECT_EQ(detailOf("secret=1"), "The first option cannot be set here.");
}

// Any bytes give options or an error; and what was written is what is read.
TEST(KafkaOptionsTest, IsTotal)
{
	test::Random random(20261124);
	const std::string pieces[] = {"security.protocol", "ssl.ca.location", "sasl.password", "client.rack", "acks", "=", "=", " ", "'", "\\", "\n", "ssl", "v4", "x", "\xff"};
	for (int i = 0; i < 20000; ++i)
	{
		std::string text;
		for (uint64_t n = random.below(12); n > 0; --n)
			text += pieces[random.below(std::size(pieces))];
		(void)parseOptions(text);
	}
	for (int i = 0; i < 2000; ++i)
	{
		std::string value, written;
		for (uint64_t n = random.below(20); n > 0; --n)
			value += static_cast<char>(1 + random.below(255));
		for (char c : value)
			written += std::string(c == '\'' || c == '\\' ? "\\" : "") + c;
		EXPECT_EQ(optionsOf("client.rack='" + written + "'").at(0).value, value);
	}
}

// The postmaster calls it: a thread there would be lost at the next fork, with the locks it holds.
TEST(KafkaOptionsTest, MakesNoThread)
{
	auto threads = [] { return std::distance(std::filesystem::directory_iterator("/proc/self/task"), std::filesystem::directory_iterator()); };
	auto before = threads();
	for (int i = 0; i < 100; ++i)
	{
		optionsOf("security.protocol=sasl_ssl ssl.ca.location=/no/such/file sasl.mechanism=SCRAM-SHA-512 sasl.username=u sasl.password=p");
		detailOf("security.protocol=tls");
	}
	EXPECT_EQ(threads(), before);
}

} // namespace
} // namespace mrsync::kafka
