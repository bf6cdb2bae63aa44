// The text form of an hlc. Total in both directions: any stamp has a text, any text is a stamp or refused.
// The calendar is computed here because the C library's is neither fast enough for a text per event nor defined for
// the years that timestamptz knows.
#include "core/hlc.h"

#include <array>
#include <charconv>

namespace mrsync
{
namespace
{

constexpr int64_t kMicrosPerSecond = 1000000;
constexpr int64_t kMicrosPerDay = 86400 * kMicrosPerSecond;
constexpr int64_t kDaysFromMarch0To2000 = 730425; // from 0000-03-01, where leap days end the year, to 2000-01-01

struct Date
{
	int64_t year;
	int64_t month;
	int64_t day;
};

// Both by eras of 400 years that begin on a first of March. Days count from 2000-01-01; year 1 and later only.
Date dateOf(int64_t days)
{
	int64_t shifted = days + kDaysFromMarch0To2000;
	int64_t era = shifted / 146097;
	int64_t dayOfEra = shifted % 146097;
	int64_t yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36524 - dayOfEra / 146096) / 365;
	int64_t dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100);
	int64_t monthFromMarch = (5 * dayOfYear + 2) / 153;
	int64_t month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9;
	return {era * 400 + yearOfEra + (month <= 2 ? 1 : 0), month, dayOfYear - (153 * monthFromMarch + 2) / 5 + 1};
}

int64_t daysOf(const Date &date)
{
	int64_t year = date.month <= 2 ? date.year - 1 : date.year;
	int64_t era = year / 400;
	int64_t yearOfEra = year % 400;
	int64_t dayOfYear = (153 * (date.month > 2 ? date.month - 3 : date.month + 9) + 2) / 5 + date.day - 1;
	int64_t dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear;
	return era * 146097 + dayOfEra - kDaysFromMarch0To2000;
}

int64_t daysInMonth(int64_t year, int64_t month)
{
	constexpr std::array<int64_t, 12> days{31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
	return days[static_cast<size_t>(month - 1)] + (month == 2 && leap ? 1 : 0);
}

// Writes value right-aligned with leading zeros.
void putDigits(char *at, int width, int64_t value)
{
	for (int i = width - 1; i >= 0; --i, value /= 10)
		at[i] = static_cast<char>('0' + value % 10);
}

bool isDigit(char c)
{
	return c >= '0' && c <= '9';
}

std::optional<Hlc> inRange(int64_t value)
{
	if (value < kHlcMin || value > kHlcMax)
		return std::nullopt;
	return Hlc{value};
}

std::optional<Hlc> parseInteger(std::string_view text)
{
	int64_t value = 0;
	auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
	if (error != std::errc() || end != text.data() + text.size())
		return std::nullopt;
	return inRange(value);
}

// Takes tokens off the front of a text; the first that does not fit makes it fail for good.
class Scanner
{
public:
	explicit Scanner(std::string_view text) : rest_(text) {}

	// A run of min to max digits.
	int64_t number(size_t min, size_t max)
	{
		size_t length = 0;
		int64_t value = 0;
		while (length < rest_.size() && length < max && isDigit(rest_[length]))
			value = value * 10 + (rest_[length++] - '0');
		take(length >= min, length);
		return value;
	}

	void oneOf(std::string_view choices)
	{
		take(!rest_.empty() && choices.find(rest_.front()) != std::string_view::npos, 1);
	}

	bool at(char c) const { return !rest_.empty() && rest_.front() == c; }
	size_t left() const { return rest_.size(); }
	bool ok() const { return ok_; }

private:
	void take(bool fits, size_t length)
	{
		ok_ = ok_ && fits;
		rest_.remove_prefix(ok_ ? length : rest_.size());
	}

	std::string_view rest_;
	bool ok_ = true;
};

} // namespace

std::string toText(Hlc hlc)
{
	if (hlc.value < kHlcMin || hlc.value > kHlcMax)
		return std::to_string(hlc.value); // not a stamp; still better said than hidden

	int64_t day = hlc.value / kMicrosPerDay;
	int64_t inDay = hlc.value % kMicrosPerDay;
	if (inDay < 0)
	{
		--day;
		inDay += kMicrosPerDay;
	}
	Date date = dateOf(day);
	int64_t second = inDay / kMicrosPerSecond;

	char text[] = "YYYYYY-MM-DD hh:mm:ss.uuuuuuZ";
	putDigits(text, 6, date.year);
	putDigits(text + 7, 2, date.month);
	putDigits(text + 10, 2, date.day);
	putDigits(text + 13, 2, second / 3600);
	putDigits(text + 16, 2, second / 60 % 60);
	putDigits(text + 19, 2, second % 60);
	putDigits(text + 22, 6, inDay % kMicrosPerSecond);

	size_t skip = date.year >= 100000 ? 0 : date.year >= 10000 ? 1 : 2;
	return std::string(text + skip, sizeof(text) - 1 - skip);
}

std::optional<Hlc> parseHlc(std::string_view text)
{
	if (text.find(':') == std::string_view::npos)
		return parseInteger(text);

	Scanner scan(text);
	bool longYear = text.find('-') > 4;
	Date date{};
	date.year = scan.number(4, 6);
	if (longYear && text.front() == '0')
		return std::nullopt; // one stamp, one spelling of its year
	scan.oneOf("-");
	date.month = scan.number(2, 2);
	scan.oneOf("-");
	date.day = scan.number(2, 2);
	scan.oneOf(" T");
	int64_t hour = scan.number(2, 2);
	scan.oneOf(":");
	int64_t minute = scan.number(2, 2);
	scan.oneOf(":");
	int64_t second = scan.number(2, 2);
	int64_t micros = 0;
	if (scan.at('.'))
	{
		scan.oneOf(".");
		size_t before = scan.left();
		micros = scan.number(1, 6);
		for (size_t digits = before - scan.left(); digits < 6; ++digits)
			micros *= 10;
	}
	scan.oneOf("Z");
	if (!scan.ok() || scan.left() != 0)
		return std::nullopt;
	if (date.year < 1 || date.month < 1 || date.month > 12 || date.day < 1 ||
	    date.day > daysInMonth(date.year, date.month) || hour > 23 || minute > 59 || second > 59)
		return std::nullopt;
	if (date.year > 294276)
		return std::nullopt; // before the arithmetic below can overflow
	return inRange(daysOf(date) * kMicrosPerDay + (hour * 3600 + minute * 60 + second) * kMicrosPerSecond + micros);
}

} // namespace mrsync
