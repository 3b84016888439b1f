//go:build tools

// Package servers names what tests/tools/crane builds, so that go.mod and go.sum hold its versions.
package servers

import (
	_ "github.com/google/go-containerregistry/cmd/crane"
)
