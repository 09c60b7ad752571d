# What the programs here share that play compose.yaml; "compose" is theirs.
passed=0
ok() { passed=$((passed + 1)); printf 'ok    %s\n' "$*"; }
fail() { printf 'FAIL  %s\n' "$*" >&2; compose ps -a >&2; compose logs --tail 40 >&2; exit 1; }
eventually() { # seconds, words, command …
    local until=$((SECONDS + $1)) words=$2
    shift 2
    until "$@"; do
        [ $SECONDS -lt $until ] || fail "$words"
        sleep 1
    done
    ok "$words"
}
