#!/bin/bash
# Runs CQL statements as a user with a password:   cql.sh ADDRESS PORT USER PASSWORD STATEMENT...
# It speaks the little of Cassandra's protocol (native_protocol_v4.spec) that needs: there is no cqlsh among the jars. Rows are not shown, errors are.
set -euo pipefail
[ $# -ge 5 ] || { sed -n '2s/^# //p' "$0" >&2; exit 2; }
address=$1 port=$2 user=$3 password=$4; shift 4
export LC_ALL=C                                                            # lengths are bytes

number() { local bytes=$1; while ((bytes-- > 0)); do printf '\\x%02x' $(($2 >> 8 * bytes & 255)); done; }       # BYTES VALUE, as escapes for printf

# request OPCODE LENGTH BODY: sends BODY (of LENGTH bytes, with escapes) and reads the answer; an error (opcode 0) ends this with its text.
request() {
  local header text
  printf '%b' "\\x04\\x00\\x00\\x00$(number 1 "$1")$(number 4 "$2")$3" >&3
  header=$(head -c 9 <&3 | od -An -v -tx1 | tr -d ' \n')
  [ ${#header} = 18 ] || { echo "cql.sh: Cassandra closed the connection" >&2; exit 1; }
  text=$(head -c $((16#${header:10})) <&3 | tr -cd '[:print:]')
  [ "${header:8:2}" != 00 ] || { printf 'cql.sh: %s\n' "$text" >&2; exit 1; }
}

exec 3<>"/dev/tcp/$address/$port"
request 1 22 "$(number 2 1)$(number 2 11)CQL_VERSION$(number 2 5)3.0.0"                                        # STARTUP
secret=$((2 + ${#user} + ${#password}))
request 15 $((4 + secret)) "$(number 4 $secret)\\x00$user\\x00$password"                                       # AUTH_RESPONSE
for statement; do
  request 7 $((4 + ${#statement} + 3)) "$(number 4 ${#statement})${statement//\\/\\\\}$(number 2 1)$(number 1 0)"    # QUERY at consistency ONE
done
