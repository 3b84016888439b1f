//go:build tools

// Package servers names what tests/tools/helm builds, so that go.mod and go.sum hold its versions.
package servers

import (
	_ "helm.sh/helm/v3/cmd/helm"
)
