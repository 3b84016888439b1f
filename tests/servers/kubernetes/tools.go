//go:build tools

// Package servers names what tests/tools/kube-apiserver builds, so that go.mod and go.sum hold its versions.
package servers

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kubectl"
)
