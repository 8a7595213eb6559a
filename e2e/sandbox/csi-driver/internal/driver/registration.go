package driver

import (
	"context"
	"log/slog"

	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Registration tells the kubelet, which watches its plugins_registry folder, that the driver is there and where.
type Registration struct {
	registration.UnimplementedRegistrationServer
	// Endpoint is the absolute path of the CSI socket.
	Endpoint string
}

// GetInfo answers who is here.
func (r *Registration) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type:              registration.CSIPlugin,
		Name:              Name,
		Endpoint:          r.Endpoint,
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

// NotifyRegistrationStatus learns what the kubelet made of it; after a failure the kubelet tries again by itself.
func (r *Registration) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if status.GetPluginRegistered() {
		slog.Info("registered with the kubelet")
	} else {
		slog.Error("the kubelet refused the registration", "error", status.GetError())
	}
	return &registration.RegistrationStatusResponse{}, nil
}
