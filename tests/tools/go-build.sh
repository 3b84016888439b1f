# Sourced by the scripts that build Go programs for tests. Each set of programs has a module in tests/servers/, whose
# go.mod and go.sum are the one place of its versions, and a folder of the cache for each version.

# Goes to the module tests/servers/$1 and makes `$bin`, the cache's folder for $2-(version of Go module $3).
programs() {
    cd "$(dirname "${BASH_SOURCE[0]}")/../servers/$1"
    version=$(pinned "$3")
    bin=${WARMPATH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/warmpath}/$2-$version
    mkdir -p "$bin"
    # Two test runs at once must not build the same file.
    exec 9>"$bin/lock"
    flock 9
}

# The version of Go module $1 that this go.mod requires.
pinned() { sed -n "s#^\(require\)\?[[:space:]]*$1 \(v[^ ]*\).*#\2#p" go.mod; }

need_go() { command -v go >/dev/null || { echo "Go is needed to build the tests' servers: https://go.dev/dl" >&2; exit 1; }; }

# The folder of Go module $1, fetched if need be.
source_of() { need_go && go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'; }

# Builds program $1 of package $2, unless it is there; the rest are flags of `go build`.
build() {
    [ -x "$bin/$1" ] && return
    need_go
    echo "building $1 (minutes, the first time)" >&2
    go build -o "$bin/$1.new" "${@:3}" "$2" >&2
    mv "$bin/$1.new" "$bin/$1"
}
