// The names of the operations, as they stand in "operation" of a ChangeEvent.
#include "core/event.h"

namespace mrsync
{

const char *toText(Operation op)
{
	switch (op)
	{
	case Operation::Insert:
		return "INSERT";
	case Operation::Update:
		return "UPDATE";
	case Operation::Delete:
		return "DELETE";
	case Operation::Truncate:
		return "TRUNCATE";
	case Operation::Ddl:
		return "DDL";
	}
	return "UNKNOWN"; // not a member of the enum: a caller's cast
}

std::optional<Operation> parseOperation(std::string_view text)
{
	for (Operation op : {Operation::Insert, Operation::Update, Operation::Delete, Operation::Truncate, Operation::Ddl})
		if (text == toText(op))
			return op;
	return std::nullopt;
}

} // namespace mrsync
