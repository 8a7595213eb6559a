package driver

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"holdfast.dev/sandbox/csi-driver/internal/pool"
)

func (c *controller) CreateSnapshot(ctx context.Context, r *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	if r.GetName() == "" {
		return nil, invalid("name is missing")
	}
	if r.GetSourceVolumeId() == "" {
		return nil, invalid("source volume id is missing")
	}
	if err := checkParameters(r.GetParameters()); err != nil {
		return nil, err
	}
	unlock, err := c.locks.lock(ctx, snapshotNameKey(r.GetName()))
	if err != nil {
		return nil, err
	}
	defer unlock()
	snapshot := c.Pool.SnapshotByName(r.GetName())
	if snapshot != nil && snapshot.SourceVolumeID != r.GetSourceVolumeId() {
		return nil, status.Errorf(codes.AlreadyExists, "snapshot %q exists and is of another volume", r.GetName())
	}
	if snapshot == nil {
		made, err := c.takeSnapshot(ctx, r)
		if err != nil {
			return nil, err
		}
		snapshot = &made
	}
	info, err := c.snapshotInfo(*snapshot)
	if err != nil {
		return nil, err
	}
	return &csi.CreateSnapshotResponse{Snapshot: info}, nil
}

func (c *controller) takeSnapshot(ctx context.Context, r *csi.CreateSnapshotRequest) (pool.Snapshot, error) {
	unlock, err := c.locks.lock(ctx, volumeKey(r.GetSourceVolumeId()))
	if err != nil {
		return pool.Snapshot{}, err
	}
	defer unlock()
	volume, err := c.Pool.Volume(r.GetSourceVolumeId())
	if err != nil {
		return pool.Snapshot{}, err
	}
	return c.Pool.CreateSnapshot(pool.Snapshot{
		Name: r.GetName(), SourceVolumeID: volume.ID, SizeBytes: volume.SizeBytes, Parameters: r.GetParameters(),
	})
}

// ready asks the fault switches; a reflink clone itself is ready at once.
func (c *controller) ready(snapshot pool.Snapshot) (bool, error) {
	subject := []string{snapshot.ID, snapshot.Name, snapshot.SourceVolumeID}
	for key, value := range snapshot.Parameters {
		subject = append(subject, key+"="+value)
	}
	fault, err := c.Faults.ForSnapshot(subject)
	if err != nil {
		return false, err
	}
	return !fault.Never && time.Since(snapshot.CreatedAt) >= fault.After, nil
}

func (c *controller) requireReady(snapshot pool.Snapshot) error {
	ready, err := c.ready(snapshot)
	if err == nil && !ready {
		err = status.Errorf(codes.Unavailable, "snapshot %q is not ready to use", snapshot.ID)
	}
	return err
}

func (c *controller) snapshotInfo(snapshot pool.Snapshot) (*csi.Snapshot, error) {
	ready, err := c.ready(snapshot)
	return &csi.Snapshot{
		SnapshotId:     snapshot.ID,
		SourceVolumeId: snapshot.SourceVolumeID,
		SizeBytes:      snapshot.SizeBytes,
		CreationTime:   timestamppb.New(snapshot.CreatedAt),
		ReadyToUse:     ready,
	}, err
}

func (c *controller) DeleteSnapshot(ctx context.Context, r *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	if r.GetSnapshotId() == "" {
		return nil, invalid("snapshot id is missing")
	}
	unlock, err := c.locks.lock(ctx, snapshotKey(r.GetSnapshotId()))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := c.Pool.Snapshot(r.GetSnapshotId()); errors.Is(err, pool.ErrNotFound) {
		return &csi.DeleteSnapshotResponse{}, nil // deleted before
	}
	return &csi.DeleteSnapshotResponse{}, c.Pool.DeleteSnapshot(r.GetSnapshotId())
}

func (c *controller) ListSnapshots(_ context.Context, r *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	all := slices.DeleteFunc(c.Pool.Snapshots(), func(snapshot pool.Snapshot) bool {
		return r.GetSnapshotId() != "" && snapshot.ID != r.GetSnapshotId() ||
			r.GetSourceVolumeId() != "" && snapshot.SourceVolumeID != r.GetSourceVolumeId()
	})
	snapshots, next, err := page(all, r.GetStartingToken(), r.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	response := &csi.ListSnapshotsResponse{NextToken: next}
	for _, snapshot := range snapshots {
		info, err := c.snapshotInfo(snapshot)
		if err != nil {
			return nil, err
		}
		response.Entries = append(response.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: info})
	}
	return response, nil
}
