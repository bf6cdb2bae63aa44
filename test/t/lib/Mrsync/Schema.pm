# As much of JSON Schema (draft 2020-12) as docs/event.schema.json uses; a keyword beyond that dies instead of being
# passed over, so that the schema cannot say what no test looks at.
package Mrsync::Schema;

use strict;
use warnings;
use B ();
use Carp qw(croak);
use Exporter 'import';
use JSON::PP ();

our @EXPORT_OK = qw(schema_read schema_errors);

my %known = map { $_ => 1 } qw($schema $id $ref $defs title description type const enum pattern minLength maxLength minimum
	required properties additionalProperties minProperties anyOf allOf if then else);

sub schema_read
{
	my ($path) = @_;
	open my $file, '<:raw', $path or croak "$path: $!";
	local $/;
	return JSON::PP->new->utf8->decode(scalar <$file>);
}

# What is wrong with a decoded JSON value; empty when it is valid.
sub schema_errors
{
	my ($root, $value) = @_;
	return check($root, $root, $value, '');
}

sub type_of
{
	my ($value) = @_;
	return 'null' unless defined $value;
	return 'object' if ref $value eq 'HASH';
	return 'array' if ref $value eq 'ARRAY';
	return 'boolean' if JSON::PP::is_bool($value);
	my $flags = B::svref_2object(\$value)->FLAGS;
	return 'string' if $flags & B::SVp_POK;
	return $value == int $value ? 'integer' : 'number';
}

sub check
{
	my ($root, $schema, $value, $at) = @_;
	return $schema ? () : ("$at: must not be there") if JSON::PP::is_bool($schema);
	my @unknown = grep { !$known{$_} } keys %$schema;
	croak "keyword @unknown of the schema is not checked" if @unknown;
	my $type = type_of($value);
	my $text = $value;    # a number that was compared as text would look like a string from then on
	my @errors;
	my $wrong = sub { push @errors, "$at: $_[0]" };

	if (my $ref = $schema->{'$ref'})
	{
		my ($name) = $ref =~ m{^#/\$defs/(\w+)$} or croak "reference $ref";
		push @errors, check($root, $root->{'$defs'}{$name}, $value, $at);
	}
	if (my $types = $schema->{type})
	{
		my @types = ref $types ? @$types : $types;
		$wrong->("is of type $type, not @types") unless grep { $_ eq $type || $_ eq 'number' && $type eq 'integer' } @types;
	}
	if (exists $schema->{const})
	{
		my $const = $schema->{const};
		my $same = type_of($const) eq $type && (!defined $value || $text eq $const);
		$wrong->('is not ' . ($const // 'null')) unless $same;
	}
	$wrong->('is none of ' . join ', ', @{ $schema->{enum} })
		if $schema->{enum} && !grep { defined $value && $_ eq $text } @{ $schema->{enum} };
	if ($type eq 'string')
	{
		$wrong->("does not match $schema->{pattern}: $value") if defined $schema->{pattern} && $value !~ /$schema->{pattern}/;
		$wrong->('is too short') if defined $schema->{minLength} && length $value < $schema->{minLength};
		$wrong->('is too long') if defined $schema->{maxLength} && length $value > $schema->{maxLength};
	}
	$wrong->("is below $schema->{minimum}") if defined $schema->{minimum} && $type eq 'integer' && $value < $schema->{minimum};
	if ($type eq 'object')
	{
		$wrong->("lacks $_") for grep { !exists $value->{$_} } @{ $schema->{required} || [] };
		$wrong->('has too few keys') if keys %$value < ($schema->{minProperties} // 0);
		for my $key (sort keys %$value)
		{
			my $of = $schema->{properties}{$key} // $schema->{additionalProperties};
			push @errors, check($root, $of, $value->{$key}, "$at/$key") if defined $of;
		}
	}
	if ($schema->{anyOf})
	{
		my @of = map { [ check($root, $_, $value, $at) ] } @{ $schema->{anyOf} };
		push @errors, map { @$_ } @of unless grep { !@$_ } @of;
	}
	push @errors, check($root, $_, $value, $at) for @{ $schema->{allOf} || [] };
	if (exists $schema->{if})
	{
		my $branch = check($root, $schema->{if}, $value, $at) ? 'else' : 'then';
		push @errors, check($root, $schema->{$branch}, $value, $at) if exists $schema->{$branch};
	}
	return @errors;
}

1;
