export declare const NORMAL_TABLE_SHA256: string;
export declare const NORMAL_TABLE: Int32Array;
