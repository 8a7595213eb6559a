package driver

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast.dev/sandbox/csi-driver/internal/mounts"
	"holdfast.dev/sandbox/csi-driver/internal/pool"
)

func (n *node) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if r.GetVolumeId() == "" || r.GetTargetPath() == "" {
		return nil, invalid("volume id or target path is missing")
	}
	if err := checkCapability(r.GetVolumeCapability()); err != nil {
		return nil, err
	}
	if r.GetStagingTargetPath() == "" {
		return nil, status.Error(codes.FailedPrecondition, "staging target path is missing")
	}
	volume, unlock, err := n.lockVolume(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := os.MkdirAll(filepath.Dir(r.GetTargetPath()), 0o750); err != nil {
		return nil, err
	}
	if r.GetVolumeCapability().GetBlock() != nil {
		err = n.publishBlock(volume, r)
	} else {
		err = n.publishFilesystem(volume, r)
	}
	if err != nil {
		return nil, err
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func (n *node) publishBlock(volume pool.Volume, r *csi.NodePublishVolumeRequest) error {
	// Attaches again what a reboot or a cleanup has detached since the stage call.
	device, err := n.stageBlock(volume, readerOnly(r.GetVolumeCapability()))
	if err != nil {
		return err
	}
	uses, err := usesOf(*device)
	if err != nil {
		return err
	}
	target := canonical(r.GetTargetPath())
	if at(uses.nodes, target) != nil {
		return nil
	}
	if err := refuseOther(r, uses.nodes, ""); err != nil {
		return err
	}
	file, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o660)
	if err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	// A read-only bind mount does not make a device read-only; with readOnly the container runtime forbids writes by the
	// device cgroup, and reader-only access modes attach the device itself read-only.
	return mountOrRemove(device.Path, target, r.GetReadonly())
}

func (n *node) publishFilesystem(volume pool.Volume, r *csi.NodePublishVolumeRequest) error {
	staging, target := canonical(r.GetStagingTargetPath()), canonical(r.GetTargetPath())
	device, uses, err := n.attached(volume)
	if err != nil {
		return err
	}
	if device == nil || at(uses.filesystems, staging) == nil {
		return status.Errorf(codes.FailedPrecondition, "volume %q is not staged at %s", volume.ID, staging)
	}
	readOnly := r.GetReadonly() || readerOnly(r.GetVolumeCapability())
	if mounted, err := mounts.At(target); err != nil {
		return err
	} else if mounted != nil {
		if mounted.MajorMinor != device.MajorMinor() {
			return status.Errorf(codes.FailedPrecondition, "%s is a mount of something else than volume %q", target, volume.ID)
		}
		if mounted.ReadOnly() != readOnly {
			return status.Errorf(codes.AlreadyExists, "volume %q is published at %s with read-only=%t", volume.ID, target, mounted.ReadOnly())
		}
		return nil
	}
	if err := refuseOther(r, uses.filesystems, staging); err != nil {
		return err
	}
	if err := os.Mkdir(target, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return mountOrRemove(staging, target, readOnly)
}

// refuseOther keeps the promise of ReadWriteOncePod: one target path at a time.
func refuseOther(r *csi.NodePublishVolumeRequest, published []mounts.Mount, staging string) error {
	if r.GetVolumeCapability().GetAccessMode().GetMode() != csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER {
		return nil
	}
	for _, mount := range published {
		if mount.Path != staging {
			return status.Errorf(codes.FailedPrecondition, "volume %q is published at %s and may be published once only", r.GetVolumeId(), mount.Path)
		}
	}
	return nil
}

func mountOrRemove(source, target string, readOnly bool) error {
	if err := mounts.Bind(source, target, readOnly); err != nil {
		return errors.Join(err, removeIfThere(target))
	}
	return nil
}

func (n *node) NodeUnpublishVolume(ctx context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if r.GetVolumeId() == "" || r.GetTargetPath() == "" {
		return nil, invalid("volume id or target path is missing")
	}
	// Also for a volume that is gone: the mount has to go.
	unlock, err := n.locks.lock(ctx, volumeKey(r.GetVolumeId()))
	if err != nil {
		return nil, err
	}
	defer unlock()
	target := canonical(r.GetTargetPath())
	if err := mounts.Unmount(ctx, target); err != nil {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, removeIfThere(target)
}
