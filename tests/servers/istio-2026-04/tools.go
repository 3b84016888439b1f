//go:build tools

// Package servers names what tests/tools/istio builds, so that go.mod and go.sum hold its versions.
package servers

import (
	_ "istio.io/istio/pilot/cmd/pilot-agent"
	_ "istio.io/istio/pilot/cmd/pilot-discovery"
)
