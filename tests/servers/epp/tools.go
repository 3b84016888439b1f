//go:build tools

// Package servers names what tests/tools/epp builds, so that go.mod and go.sum hold its versions.
package servers

import _ "sigs.k8s.io/gateway-api-inference-extension/cmd/epp"
